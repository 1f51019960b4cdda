"""Published encoders (V-JEPA 1, 2, 2.1, 2-AC, I-JEPA, DINOv2, DINOv3, EfficientNet-Lite0) and raw pixels."""
