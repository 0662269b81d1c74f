"""How a write goes into the log: batches become frames, frames are published and covered."""
