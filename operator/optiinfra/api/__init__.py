"""The custom resources: models, schema generator, conditions. The only source of the schema; no I/O happens here."""
