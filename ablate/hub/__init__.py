"""Runs in repositories: folders, or models of the Hugging Face Hub."""
