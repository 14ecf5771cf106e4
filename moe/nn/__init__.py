"""The decoder in plain torch: any slice of it, with the losses that keep its experts balanced."""
