"""Objectives, solvers and sampling."""
