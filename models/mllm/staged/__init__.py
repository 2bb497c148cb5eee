"""What training in stages over whole pictures shares: Pix2Cap and UniRES++."""
