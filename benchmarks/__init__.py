"""Speed and memory against peers, as ratios in one process. See README.md beside this file."""
