"""Stages, chains of stages, and the checks around every stage."""
