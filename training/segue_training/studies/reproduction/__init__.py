"""d2l's recurrent chapters, trained again and compared with the published figures."""
