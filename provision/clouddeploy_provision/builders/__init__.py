"""The bundled builders, and how a builder's dotted path leads to its class."""
