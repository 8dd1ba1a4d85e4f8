"""Statistics of comparisons: intervals, length control, ratings, spread over seeds."""
