"""What a report shows and a sweep does not leave: made from run directories, profiles and the dataset."""
