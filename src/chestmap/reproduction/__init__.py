"""Published tables and the demo made again: plans, trained runs, our figures next to the published ones."""
