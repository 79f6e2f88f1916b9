"""The configs that come with jaxlv: `jaxlv configs` lists them, and verbs take their names."""
