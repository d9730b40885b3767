"""Policies: the scripted pick, its expert, and learned policies at run time."""
