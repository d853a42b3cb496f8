"""Recipes as package data."""
