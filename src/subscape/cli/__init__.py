"""The command line: `subscape demo`, `decompose`, `reproduce`. Every flag is a config field."""
