"""One module a group of commands, each a thin layer over core and the operator API."""
