"""From folders of photos to batches: data sets, the store of decoded photos, variations, cached features."""
