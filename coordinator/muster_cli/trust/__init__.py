"""The operator's side of trust: keys that sign, the chain of documents, directives."""
