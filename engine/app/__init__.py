"""The daemon: builds everything, runs it on one loop, and puts it down again."""
