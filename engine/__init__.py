"""The core: events, the bus, actors, the ingress, indicators and the fold. Importing it compiles nothing."""
