"""Images of production lines: layouts, packing, shards, decoding, resizing and inspection."""
