"""Earlier runs: a folder of result files, what they say over time, and two of them compared.

folder: writes a run's result to the folder, and reads the folder
timeline: each score over the runs
comparison: two result files, score by score
"""
