"""Everything that deploys the application; imports nothing from it."""
