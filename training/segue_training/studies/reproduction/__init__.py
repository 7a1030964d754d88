"""d2l's recurrent chapters, trained again and set beside what was published."""
