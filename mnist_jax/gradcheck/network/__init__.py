"""The check of the chapter's network, with a faster numeric gradient."""
