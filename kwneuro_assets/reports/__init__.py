"""HTML pages about a subject and about a cohort, and the methods text."""
