"""What teachers need: the answers in submitted notebooks, checked, and the mistakes that learners make."""
