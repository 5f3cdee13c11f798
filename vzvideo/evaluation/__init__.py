"""How good a model is: question files in, one score a kind of question out.

`questions` reads a user's own file and the published formats, `scoring` compares answers and knows
no model, `run` asks. Every score stands beside two others: without the video, and with another one.
"""
