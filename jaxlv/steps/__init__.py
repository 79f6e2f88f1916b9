"""What is compiled: the loss, the train step of one run or several, generation."""
