"""What results look like: matplotlib figures, pages of HTML, and masks for annotation tools."""
