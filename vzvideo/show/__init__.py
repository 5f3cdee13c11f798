"""`vzvideo show`: what the model sees of a video, as a page, a contact sheet or numbers."""
