"""How `mini` is trained: pictures and clips to features, captions to questions, and the loop."""
