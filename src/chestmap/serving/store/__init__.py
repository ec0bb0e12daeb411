"""The service's store: studies, results, reviews in a database, their files next to it."""
