"""Results for people to look at: matplotlib figures, HTML pages, and masks for annotation tools.

- `plots`: figures of masks and maps, `sheets`: figures of channels, both built from `panels`;
- `report`: HTML with a slider, for notebooks, reports and the explorer;
- `annotations`: masks in the formats of annotation tools.
"""
