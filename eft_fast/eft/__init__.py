"""Exemplar Fine-Tuning: a person is fitted by fine-tuning a regressor on that person's one photo.

``config`` holds the options, ``modes`` what is tuned, ``loss`` what is minimised, ``loop`` the
reference loop; ``batched`` gives many people private weights at once. Import from these modules.
"""
