"""Recipes: what they say, those that come with the project, and the modules they ask for."""
