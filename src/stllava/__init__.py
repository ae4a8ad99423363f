"""STLLaVA-Med: a medical vision-language assistant that teaches itself to ask and answer."""

__version__ = "0.1.0"
