"""Both training stages: one trainer, two objectives. Knows no judge and no benchmark."""
