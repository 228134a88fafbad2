"""The real components that tests run against: what is pinned, how it is built, where it is found."""
