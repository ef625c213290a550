"""The azure profile: the same ports on Azure's services. An SDK is imported when it is first used."""
