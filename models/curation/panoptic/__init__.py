"""`ureca curate panoptic`: a caption for every segment of a picture, as Pix2Cap-COCO has them."""
