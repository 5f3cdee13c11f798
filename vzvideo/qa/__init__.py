"""Questions about a video: encoded once, kept, asked as often as wanted. Begins in `video_qa`."""
