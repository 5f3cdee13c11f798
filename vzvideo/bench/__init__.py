"""`vzvideo bench`: speed and memory of every stage, beside what others do and the limit."""
