"""Try each new schema or grammar in a process of its own before the engine sees it."""
