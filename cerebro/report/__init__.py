"""What people see: the leaderboard, the live display, `cerebro top`, and the page of an experiment."""
