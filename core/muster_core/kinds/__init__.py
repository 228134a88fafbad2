"""The kinds that users write: models, strict parsing, schemas."""
