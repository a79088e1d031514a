"""Inspection of a line's data: properties of its images, outliers, duplicates and drift between splits."""
