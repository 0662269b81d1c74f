"""Operations about memories that are there: how they are related, judged, and why recalled."""
