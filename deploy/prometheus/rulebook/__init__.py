"""The rules, a module for each area. ``book.groups`` puts them together."""
