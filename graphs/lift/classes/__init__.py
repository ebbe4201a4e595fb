"""Model classes of this project, for models that transformers has no class for."""
