"""`charlm score`."""




