"""Simulated runs of every claim kind: how often it passes at its threshold, and when nothing changed."""
