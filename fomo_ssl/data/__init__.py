"""From a store to a batch on the device."""
